"""Features of images: the output of a layer inside an engine, in files that are searched for neighbours and copies.

Other rooms use ``extract_features`` (extract), ``open_index`` (index), ``find_neighbours`` (neighbours) and
``find_duplicates`` (duplicates).
"""
