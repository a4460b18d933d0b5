"""The result page: one HTML file that shows picture, views, turntable and mesh, offline."""
