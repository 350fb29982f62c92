import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { messageOf } from "../../model/server/api.ts";

interface Props<P> {
  /** Loads the component with an `import()`. */
  load: () => Promise<ComponentType<P>>;
  props: P;
}

/** A component that is loaded when it is first shown. */
export function Lazy<P>({ load, props }: Props<P>) {
  const [loaded, setLoaded] = useState<{ component: ComponentType<P> } | { problem: string }>();
  useEffect(() => {
    let isCurrent = true;
    load().then(
      (component) => isCurrent && setLoaded({ component }),
      (error: unknown) => isCurrent && setLoaded({ problem: messageOf(error) }),
    );
    return () => {
      isCurrent = false;
    };
  }, []);
  if (loaded === undefined) return null;
  if ("problem" in loaded) return <p class="problem">This part could not be loaded. {loaded.problem}</p>;
  const Component = loaded.component as ComponentType<unknown>;
  return <Component {...(props as object)} />;
}
