"""Molecular-guided lay annotation, SAM adapter with corrective learning, and agreement for kidney nuclei."""
