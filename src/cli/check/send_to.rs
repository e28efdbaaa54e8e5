//! `usher check --send-to`: sends one real mail and shows the SMTP session.

use crate::cli::paint::{FAINT, paint};
use crate::clock::Clock;
use crate::config::Config;
use usher_mail::{Mailer, MessageIdentity, Rendered, SendError, Sent, message_domain};

/// Sends the mail and prints the session meanwhile, without login and content.
pub(super) async fn send(config: &Config, mailer: &Mailer, clock: &Clock, to: &str) -> Result<Sent, SendError> {
    let domain = message_domain(&config.mail_from).unwrap_or_else(|| "localhost".to_owned());
    let identity = MessageIdentity {
        message_id: format!("{}@{domain}", clock.new_id()),
        date: clock.now(),
    };
    let name = &config.app_name;
    let mail = Rendered {
        language: "en".to_owned(),
        is_unsolicited: false,
        subject: format!("A test mail from {name}"),
        text: format!("This is how mails from {name} arrive. Somebody ran `usher check --send-to` for it.\n"),
        html: format!(
            "<p>This is how mails from {} arrive. Somebody ran <code>usher check --send-to</code> for it.</p>\n",
            handlebars::html_escape(name)
        ),
    };
    let (lines, mut said) = tokio::sync::mpsc::unbounded_channel();
    let printing = async {
        while let Some(line) = said.recv().await {
            println!("      {}", paint(FAINT, &line));
        }
    };
    let sending = mailer.send_shown(to, &identity, &mail, lines);
    let (sent, ()) = tokio::join!(sending, printing);
    sent
}
