"""What tokentape costs and saves, measured side by side with Hugging Face in one run."""
