"""Functions of :class:`cropr_mm.structures.Tokens`: gather, merge, mask, restore."""
