/* Learn: the lessons, which the server computes once. */

import { html, useEffect, useState } from "./lib.js";
import { get } from "./api.js";
import { Problem } from "./pieces.js";
import { Lesson } from "./lesson.js";

const chosen = () => location.hash.split("/")[1] || "noise";

export function LearnScreen() {
  const [name, setName] = useState(chosen());
  const [lesson, setLesson] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    const change = () => location.hash.startsWith("#learn") && setName(chosen());
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  useEffect(() => {
    let left = false;
    setError(null);
    get(`/api/lessons/${encodeURIComponent(name)}`)
      .then((found) => !left && setLesson(found))
      .catch((problem) => !left && setError(problem.message));
    return () => {
      left = true;
    };
  }, [name]);
  const there = lesson?.name === name;
  return html`<${Problem} error=${error} />
    ${!there && !error && html`<p class="dim" role="status">The digits model computes this lesson …</p>`}
    ${there && html`<${Lesson} key=${name} lesson=${lesson} href=${(one) => `#learn/${one}`} />`}`;
}
