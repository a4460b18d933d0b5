"""The paper's comparisons, trained and measured side by side."""
