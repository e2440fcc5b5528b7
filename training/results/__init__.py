"""What a run reached, and how accurate a checkpoint is."""
