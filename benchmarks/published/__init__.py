"""What benchmarks share whose results are published as a page: data on disk, the page, a load."""
