"""Repairs what edge nodes have, by the record of what they acknowledged."""
