"""The model provider of Inspect AI: `inspect eval task.py --model tokentape/smollm2-demo`."""
