"""The console's page in a browser, for tests: what they choose, fill in and read there."""

from support import waiting

ROW = "#models-rows tr[data-model=iris]"


def choose(page, model):
    """Choose a model to try, and wait for its form."""
    page.find(f"#models-rows tr[data-model={model}] button").click()
    waiting.until(lambda: page.run("return document.activeElement.closest('#try-form') !== null"))
    waiting.until(lambda: page.run("return document.getElementById('try-model').value") == model)


def fill(page, values):
    """Type over the form's fields, in their order."""
    for element, value in zip(page.all("#try-fields input"), values, strict=True):
        element.clear()
        element.send_keys(str(value))


def result(page):
    """The result's columns, by their heads."""
    page.find("#job-state", text="succeeded")
    page.find("#job-result td")
    heads = [head.text for head in page.all("#job-result thead th")]
    rows = [
        [cell.text for cell in row.find_elements("css selector", "th, td")] for row in page.all("#job-result tbody tr")
    ]
    return dict(zip(heads, zip(*rows, strict=True), strict=True))


def steps(page):
    return [step.get_attribute("data-step") for step in page.all("#job-steps li")]
