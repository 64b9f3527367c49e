"""Folders and files at the URLs of fsspec: object stores such as S3, and other file systems."""
