"""Everything in HTML: the result page, the pages of evaluations, charts."""
