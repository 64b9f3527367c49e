"""Serve pages of the runs of a store on this machine: an HTTP server of the standard library.

It answers only on 127.0.0.1, only with the token that it made when it started, and only what a
browser asks for under a loopback name. Recordings are read when a page needs them.
"""
