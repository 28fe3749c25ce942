"""Training, deploying and checking in Google Cloud."""
