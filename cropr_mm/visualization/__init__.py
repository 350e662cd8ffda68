"""A page of trained models side by side: kept tokens by block, predictions, costs."""
