from hypothesis import settings

# Time limits belong into the benchmark: a busy machine must not fail a test.
settings.register_profile("walbasin", deadline=None)
settings.load_profile("walbasin")
