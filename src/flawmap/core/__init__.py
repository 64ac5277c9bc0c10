"""Errors, checks, files, records, settings, threads and devices: what every other room stands on.

Plain values come in; checked settings, records and files go out.
It calls no other room.
"""
