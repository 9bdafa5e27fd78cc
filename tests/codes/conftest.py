from hypothesis import settings

# The machines that run this are shared: time says nothing about a property.
settings.register_profile("codes", deadline=None, max_examples=60)
settings.load_profile("codes")
