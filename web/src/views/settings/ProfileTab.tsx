import { useClient } from "../clientContext.ts";
import { CopyButton } from "../components/CopyButton.tsx";
import { Field, Form } from "../components/Form.tsx";
import { PictureButton } from "../components/PictureButton.tsx";
import { showToast } from "../components/Toasts.tsx";

/** The user's name and picture. */
export function ProfileTab() {
  const { me, ownProfile } = useClient();
  const save = async (data: FormData) => {
    await ownProfile.setName(String(data.get("name")).trim());
    showToast("Your name has been saved.");
  };
  return (
    <section class="settings-section" aria-labelledby="profile-heading">
      <h2 id="profile-heading">Profile</h2>
      <p class="soft">This is how others see you.</p>
      <PictureButton id={me} name={ownProfile.name.value} mxc={ownProfile.avatar.value} onChange={async (mxc) => ownProfile.setAvatar(mxc)} />
      <Form onSubmit={save} submit="Save name">
        <Field
          key={ownProfile.name.value}
          label="Display name"
          name="name"
          defaultValue={ownProfile.name.value}
          dir="auto"
          autocomplete="name"
          maxLength={255}
        />
      </Form>
      <div class="field">
        <span class="label">User id</span>
        <div class="row">
          <code class="ellipsis">{me}</code>
          <CopyButton text={me} label="Copy the user id" />
        </div>
        <span class="hint">People on other servers find you by this.</span>
      </div>
    </section>
  );
}
