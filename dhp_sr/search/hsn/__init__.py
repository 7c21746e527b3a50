"""HSN: model compression via a hyper-structure network."""
