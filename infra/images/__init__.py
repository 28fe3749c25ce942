"""The images: what is in them, how they are built, and what each must do."""
