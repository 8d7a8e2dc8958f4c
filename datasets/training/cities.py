"""City names of the training sets, in the published order."""

# GSV-Cities (Ali-bey et al., 2022): Google Street View places of 23 cities.
GSV_CITIES = (
    "Bangkok", "BuenosAires", "LosAngeles", "MexicoCity", "OSL", "Rome", "Barcelona", "Chicago", "Madrid",
    "Miami", "Phoenix", "TRT", "Boston", "Lisbon", "Medellin", "Minneapolis", "PRG", "WashingtonDC",
    "Brussels", "London", "Melbourne", "Osaka", "PRS",
)

# The unified data set cuts MSLS and Pitts30k into groups of places that do not touch, 18 a city, and calls
# each group a "city" <name><group>.  Lower-case names tell the MSLS cities from those of GSV-Cities.
_GROUPED = (
    "Trondheim", "Amsterdam", "Helsinki", "Tokyo", "Toronto", "Saopaulo", "Moscow", "Zurich", "Paris",
    "Budapest", "Austin", "Berlin", "Ottawa", "Goa", "Amman", "Nairobi", "Manila", "bangkok", "boston",
    "london", "melbourne", "phoenix", "Pitts30k",
)
_N_GROUPS = 18
_EMPTY_GROUPS = {"Amman17", "Nairobi17"}

UNIFIED_CITIES = ("SFXL", *GSV_CITIES, *(
    city for group in range(_N_GROUPS) for name in _GROUPED if (city := f"{name}{group}") not in _EMPTY_GROUPS))

TRAINING_SETS = {"gsv_cities": GSV_CITIES, "unified_dataset": UNIFIED_CITIES}
