//! `plinth group`: groups, with and without a volume.
use crate::args::{Group, Output};
use crate::keys::DefaultKey;
use crate::output::{self, changed};
use crate::verbs::Call;
use node::Result;
use node::client::part;
use node::params::CreateGroup;

impl Call<'_> {
    /// Runs a verb.
    pub fn group(&self, verb: Group) -> Result<()> {
        let output = self.global.output;
        match verb {
            Group::Create { group, pool, encrypt, kek } => {
                let body = CreateGroup { name: group.clone(), pool, encrypt, kek };
                let told = DefaultKey::before(self.global, body.encrypt && body.kek.is_none())?;
                let made = self.post("/v1/groups", &body, "creating")?;
                told.after(self.global)?;
                changed(output, &made, &group)
            }
            Group::List => output::list(output, &self.client()?.get("/v1/groups")?, "name", output::GROUPS),
            Group::Show { group } => {
                let shown = self.client()?.get(&path(&group))?;
                if output == Output::Table {
                    output::group(&shown)
                } else {
                    output::list(output, &shown, "name", output::GROUPS)
                }
            }
            Group::Delete { group, if_exists } => {
                self.delete(&group, &path(&group), if_exists, &format!("delete group {group}"))
            }
        }
    }
}

fn path(group: &str) -> String {
    format!("/v1/groups/{}", part(group))
}
