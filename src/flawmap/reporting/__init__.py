"""What people look at: pictures, charts, pages, lists, and one table of labels for metrics.

Records come in; PNG, HTML, JSON and CSV files go out.
It calls every room below: core to evaluation.
"""
