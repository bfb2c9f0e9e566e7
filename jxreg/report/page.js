(() => {
  const source = (key) => document.querySelector(`#plate-${key} img`);
  const viewer = document.getElementById("viewer");
  if (!viewer || !source("xray")) return;
  const [below, above, blend, chosen, explained] = ["below", "above", "blend", "chosen", "explained"]
    .map((id) => document.getElementById(id));
  const choices = document.getElementById("choices");
  const fade = () => { above.style.opacity = blend.value / 100; };
  const show = (button, figure) => {
    above.src = figure.querySelector("img").src;
    chosen.textContent = figure.querySelector("strong").textContent;
    explained.textContent = figure.querySelector("figcaption span").textContent;
    for (const other of choices.children) other.setAttribute("aria-pressed", other === button);
    fade();
  };
  below.src = source("xray").src;
  for (const figure of document.querySelectorAll(".plate")) {
    if (figure.id === "plate-xray") continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = figure.querySelector("strong").textContent;
    button.addEventListener("click", () => show(button, figure));
    choices.append(button);
    if (figure.id === "plate-end") show(button, figure);
  }
  blend.addEventListener("input", fade);
  viewer.hidden = false;
})();
