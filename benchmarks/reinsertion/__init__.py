"""The re-insertion benchmark: do statements land in old versions where history says that they stood?"""
