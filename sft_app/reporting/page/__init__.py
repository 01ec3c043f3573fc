"""How a report looks: templates, style, charts, numbers as people read them."""
