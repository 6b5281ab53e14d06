(() => {
  const grids = [...document.querySelectorAll(".film figure")], slide = document.getElementById("slide");
  if (grids.length < 2 || !slide) return;
  const input = slide.querySelector("input"), shown = document.getElementById("shown"), label = document.getElementById("shown-label");
  const show = (i) => {
    const picture = grids[i].querySelector("img");
    input.value = i;
    shown.src = picture.src;
    shown.alt = picture.alt;
    label.textContent = grids[i].querySelector("figcaption").textContent;
    input.setAttribute("aria-valuetext", label.textContent);
    grids.forEach((grid, j) => grid.classList.toggle("on", i === j));
    const film = grids[i].parentElement;
    film.scrollLeft = grids[i].offsetLeft - film.offsetLeft - (film.clientWidth - grids[i].clientWidth) / 2;
  };
  input.max = grids.length - 1;
  input.addEventListener("input", () => show(+input.value));
  grids.forEach((grid, i) => grid.addEventListener("click", () => show(i)));
  slide.hidden = false;
  document.documentElement.classList.add("js");
  show(grids.length - 1);
})();
