"""Is an implementation right, over the whole grid of masks, heads, lengths, dtypes, passes and inputs?"""
