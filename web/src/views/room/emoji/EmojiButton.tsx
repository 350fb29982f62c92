import { Component, type ComponentChildren, createRef, type FunctionComponent } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { IconButton } from "../../components/IconButton.tsx";
import { showToast } from "../../components/Toasts.tsx";
import "./Emoji.css";

interface Props {
  label: string;
  onChoose: (emoji: string) => void;
  above?: boolean;
}

interface PickerProps {
  onChoose: (emoji: string) => void;
}

/** Opens the emoji picker, which is loaded on first use. */
export function EmojiButton({ label, onChoose, above = false }: Props) {
  const [isOpen, setOpen] = useState(false);
  const [Picker, setPicker] = useState<{ of: FunctionComponent<PickerProps> } | null>(null);
  const anchor = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    if (!isOpen) return;
    import("./EmojiPicker.tsx").then(
      ({ EmojiPicker }) => setPicker({ of: EmojiPicker }),
      () => showToast("The emoji could not be loaded."),
    );
    const outside = (event: Event) => {
      if (!anchor.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("pointerdown", outside);
    return () => document.removeEventListener("pointerdown", outside);
  }, [isOpen]);
  const close = () => {
    setOpen(false);
    anchor.current?.querySelector("button")?.focus();
  };
  return (
    <span
      class="emoji-anchor"
      ref={anchor}
      onKeyDown={(event) => {
        if (!isOpen || event.key !== "Escape") return;
        event.preventDefault();
        event.stopPropagation();
        close();
      }}
    >
      <IconButton icon="emoji" label={label} aria-haspopup="dialog" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)} />
      {isOpen && (
        <EmojiPopup above={above}>
          {Picker === null ? (
            <span class="spinner" />
          ) : (
            <Picker.of
              onChoose={(emoji) => {
                close();
                onChoose(emoji);
              }}
            />
          )}
        </EmojiPopup>
      )}
    </span>
  );
}

/** A popup that is positioned inside the window. */
class EmojiPopup extends Component<{ above: boolean; children?: ComponentChildren }> {
  private readonly element = createRef<HTMLDivElement>();

  override componentDidMount(): void {
    const element = this.element.current;
    const anchor = element?.parentElement?.getBoundingClientRect();
    if (!element || anchor === undefined) return;
    const { width, height } = element.getBoundingClientRect();
    const left = Math.max(Math.min(anchor.right - width, innerWidth - width - 8), 8);
    const over = anchor.top - height - 8;
    const under = anchor.bottom + 8;
    const top = (this.props.above || under + height > innerHeight - 8) && over > 8 ? over : Math.min(under, innerHeight - height - 8);
    element.style.left = `${left}px`;
    element.style.top = `${Math.max(top, 8)}px`;
  }

  override render() {
    return (
      <div ref={this.element} class="emoji-popup" role="dialog" aria-label="Emoji">
        {this.props.children}
      </div>
    );
  }
}
