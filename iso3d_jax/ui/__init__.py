"""The page in the browser: runs in a folder, workers and their queue, and gradio on top of them."""
