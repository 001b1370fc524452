"""The app: how allinsam's pages are served, to whom, and kept running. No algorithms, no SQL."""
