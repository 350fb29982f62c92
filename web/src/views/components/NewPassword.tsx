import { useState } from "preact/hooks";
import { UserFacingError } from "../../model/server/api.ts";
import { MIN_PASSWORD_LENGTH, passwordProblem } from "../../model/session/authentication.ts";
import { PasswordField } from "./PasswordField.tsx";

/** Two fields for a new password, with the rules for it. */
export function NewPassword({ label = "Password" }: { label?: string }) {
  const [first, setFirst] = useState("");
  const [second, setSecond] = useState("");
  const differs = second !== "" && !first.startsWith(second);
  return (
    <>
      <PasswordField
        label={label}
        name="new-password"
        autocomplete="new-password"
        hint={`At least ${MIN_PASSWORD_LENGTH} characters. A few words work well.`}
        onInput={setFirst}
      />
      <div class="stack tight">
        <PasswordField label="Repeat the password" name="repeated" autocomplete="new-password" onInput={setSecond} />
        <p class="problem" role="status">
          {differs ? "The passwords do not match yet." : ""}
        </p>
      </div>
    </>
  );
}

/** Returns the new password of a form. Throws if it is not acceptable. */
export function readNewPassword(data: FormData): string {
  const password = String(data.get("new-password") ?? "");
  const problem = passwordProblem(password, String(data.get("repeated") ?? ""));
  if (problem !== null) throw new UserFacingError(problem);
  return password;
}
