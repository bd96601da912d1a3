"""Octo's network: tokenizers, stems, transformer, the language encoder."""
