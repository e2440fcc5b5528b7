"""A trained checkpoint in its last form: float16 with its card (``pack``), a folder for the Hugging Face hub."""
