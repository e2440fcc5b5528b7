"""Image files: which ones, of which class, and how a file becomes pixels.

Other rooms use ``find_images`` (find), ``load_pixels`` and ``to_pixels`` (decode), ``choose_images`` (choose),
``list_labelled`` (labelled), ``refuse_shared_images`` (identity.shared), and ``sample_photos`` (samples).
"""
