"""The endpoint of `tokentape serve`: OpenAI's chat completions, each of which is a recorded turn.

It needs the extra `serve`: `pip install "tokentape[serve]"`.
"""
