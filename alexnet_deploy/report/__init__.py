"""Everything about the engines of a store in one JSON file and one HTML page, and the best engine within bounds.

``measure.measure_report`` measures, ``file`` and ``page`` write, ``recommend.recommend`` chooses; ``gallery`` and
``plots`` draw the results of other rooms.
"""
