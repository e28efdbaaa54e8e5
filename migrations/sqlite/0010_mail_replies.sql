-- What the mail server said when it took the mail.
alter table usher_deliveries add column reply text;
