/** The widget behind `%tokmagic panel`: one file with all that it needs, since front ends share nothing. */

import * as React from 'react';
import { createRoot } from 'react-dom/client';

import { catalogue, isSimplifiedChinese } from './catalogue';
import { InlinePanel, actionsOf } from './inline';
import type { WidgetModel } from './link';
import { Link } from './link';
import { ZH } from './locales/zh';

/** Draw a panel into `el`, and return what takes it out again. */
function render(props: { model: WidgetModel; el: HTMLElement }): () => void {
  const { model, el } = props;
  const link = new Link(model);
  const actions = actionsOf(link);
  const language = document.documentElement.lang || navigator.language;
  const trans = catalogue(isSimplifiedChinese(language) ? ZH : {});
  el.classList.add('tm-Host');
  // The page may have another React, whose ids must not be these.
  const identifierPrefix = `tm-${Math.random().toString(36).slice(2)}`;
  const root = createRoot(el, { identifierPrefix });
  let frame = 0;
  let isSeen = true;
  const draw = () => {
    if (frame === 0 && isSeen) {
      frame = requestAnimationFrame(() => {
        frame = 0;
        root.render(
          <InlinePanel link={link} actions={actions} trans={trans} />
        );
      });
    }
  };
  link.changed.connect(draw);
  draw();
  // Nothing is drawn while it is scrolled out of sight.
  const observer = new IntersectionObserver(entries => {
    isSeen = entries.at(-1)?.isIntersecting ?? true;
    draw();
  });
  observer.observe(el);
  window.addEventListener('pagehide', link.close);
  return () => {
    window.removeEventListener('pagehide', link.close);
    observer.disconnect();
    cancelAnimationFrame(frame);
    link.close();
    root.unmount();
  };
}

export default { render };
