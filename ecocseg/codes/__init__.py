"""Codewords for classes: codebooks, decoding, reliable bits and losses."""
