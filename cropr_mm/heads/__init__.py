"""Heads for models of mmdet and mmseg; each is imported by name, with its host library."""
