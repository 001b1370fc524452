"""Training the SAM adapter: data, corrective loss and the loop."""
