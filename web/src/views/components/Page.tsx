import "./Page.css";
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import { routeHref } from "../../model/route.ts";
import { Icon } from "./Icon.tsx";

interface Props {
  title: string;
  /** Shown to the right of the title. */
  tools?: ComponentChildren;
  /** Shown under the title; stays when the rest is scrolled. */
  head?: ComponentChildren;
  children: ComponentChildren;
}

/** A screen next to the sidebar: a bar with a title, and a scrolling body. */
export function Page({ title, tools, head, children }: Props) {
  const id = useId();
  return (
    <section class="page" aria-labelledby={id}>
      <header class="page-bar">
        <BackLink />
        <h1 id={id} class="grow ellipsis">
          {title}
        </h1>
        {tools}
      </header>
      {head !== undefined && <div class="page-head">{head}</div>}
      <div class="page-body">{children}</div>
    </section>
  );
}

/** On a phone, the link back to the list. */
export function BackLink() {
  return (
    <a class="icon-button back-link" href={routeHref({ at: "home" })} aria-label="Back to conversations" title="Back to conversations">
      <Icon name="back" />
    </a>
  );
}
