alter table usher_deliveries add column reply text;
comment on column usher_deliveries.reply is 'What the mail server said when it took the mail.';
