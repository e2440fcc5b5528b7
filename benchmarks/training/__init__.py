"""What training reaches, and what its parts cost."""
