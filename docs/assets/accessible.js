/* what the theme leaves without a name or out of the keyboard's reach; axe checks every page */
function accessible() {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll("nav.md-code__nav").forEach((nav, i) => nav.setAttribute("aria-label", `Code ${i + 1}`));
  document.querySelectorAll(".md-nav--secondary li > nav").forEach(nav => // a heading may be named like a section of the site
    nav.setAttribute("aria-label", `On this page: ${nav.previousElementSibling.textContent.trim()}`));
  document.querySelectorAll(".md-typeset pre > code, .md-typeset__table, .md-typeset__scrollwrap").forEach(box => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  });
}
accessible();
new MutationObserver(accessible).observe(document.body, {childList: true, subtree: true});
