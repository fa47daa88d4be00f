"""Sentences from files of text: plain text, dumps of wikis, and other XML, also compressed."""
