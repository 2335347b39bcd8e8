// One key a button. The page works without this file, as a form; with it a judgement that could not be saved stays on the page.
"use strict";
const judge = document.getElementById("judge");
const failed = document.getElementById("failed");
const note = document.querySelector("[data-note]");
const draft = note && "note of " + note.dataset.note;

if (note) {
  if (!note.value) note.value = sessionStorage.getItem(draft) || "";
  note.addEventListener("input", () => sessionStorage.setItem(draft, note.value));
}

async function send(form, button) {
  const body = new URLSearchParams(new FormData(form));
  if (button && button.name) body.append(button.name, button.value);
  try {
    const answer = await fetch(form.action, { method: "POST", body });
    if (!answer.ok) throw new Error(await answer.text());
    if (draft && form === judge) sessionStorage.removeItem(draft);
    location.replace(answer.url);
  } catch (error) {
    failed.textContent = "Not saved: " + (error.message || "no answer") + ". Is `pinisi inspect` still running? Press the key again.";
    failed.hidden = false;
  }
}

for (const form of document.forms) {
  form.addEventListener("submit", event => {
    event.preventDefault();
    send(form, event.submitter);
  });
}

// By what the key writes; else by its place, as on a Thai or Khmer keyboard, whose keys write other letters.
function byKey(key) {
  return document.querySelector('[data-key="' + CSS.escape(key) + '"]');
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  const typing = event.target.matches("input:not([type=checkbox]), textarea");
  if (typing) {
    if (event.key === "Enter" || event.key === "Escape") { event.preventDefault(); event.target.blur(); }
    return;
  }
  if (note && (event.key === "n" || (event.code === "KeyN" && !byKey(event.key.toLowerCase())))) { event.preventDefault(); note.focus(); return; }
  const wanted = byKey(event.key.toLowerCase()) || byKey(event.code.replace(/^(Key|Digit|Numpad)/, "").toLowerCase());
  if (wanted) { event.preventDefault(); wanted.click(); }
});
