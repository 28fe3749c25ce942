"""Where the model is: in this process, or behind a TF Serving."""
