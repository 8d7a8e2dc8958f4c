"""Where benchmark images and their coordinates are read from: folders, lists, folders of one's own."""
