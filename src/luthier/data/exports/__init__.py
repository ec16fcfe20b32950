"""Chats as their programs export them, and logs of servers, to conversations."""
